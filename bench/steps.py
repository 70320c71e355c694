"""`make bench`: image-steps a second of the engine on this machine. Arguments are those of `workers.engine.bench`."""

import sys

from workers.engine.bench import main

if __name__ == "__main__":
    main(sys.argv[1:])
