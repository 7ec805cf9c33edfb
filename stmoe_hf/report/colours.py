"""The colours of forecast, truth and everything else: those of a light page (page.css), which pictures have too."""

FORECAST, TRUTH, GREY = "#2f6fb0", "#c8641b", "#8a94a3"
