"""A health check for images without curl: `python deploy/healthy.py URL` exits 0 if the response's status is 200."""

import sys
import urllib.request

if __name__ == "__main__":
    try:
        # The URL is the container's own: use no proxy.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(sys.argv[1], timeout=4) as response:
            sys.exit(response.status != 200)
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
