"""One script per table or figure: reads data, calls the package, writes CSV, then a picture."""
