"""Charts of a report, as Vega-Lite specifications, and as the SVG and PDF made of them."""
