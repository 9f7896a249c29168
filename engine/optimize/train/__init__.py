"""Training of what a recipe has made, with the original model as its teacher."""
