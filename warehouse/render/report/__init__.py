"""A report: one HTML file that shows the models of a warehouse in any browser, without a network and without this package."""
