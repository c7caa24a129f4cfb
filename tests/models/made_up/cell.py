"""A made-up cell: a simple recurrent layer with ReLU, as Le, Jaitly & Hinton (2015), arXiv 1504.00941, use it."""

from forecaster.models.cells import Cell

NAME = "relu_rnn"
CELL = Cell("SimpleRNN", (0,), "rnn", options={"activations": ["Relu"]}, layer_options={"activation": "relu"})
