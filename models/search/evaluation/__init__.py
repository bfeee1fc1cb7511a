"""How good a ranking is: measures, click models, comparisons."""
