"""Commands: flags and files to library functions."""
