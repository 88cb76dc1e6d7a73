"""``python -m bayes_lrmf``: the command line."""

from bayes_lrmf.cli import main

if __name__ == "__main__":
    main()
