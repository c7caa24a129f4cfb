"""Files for the containers of docker-compose.yml and Kubernetes, and the programs that prepare and check them."""
