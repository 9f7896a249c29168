"""From a recipe to a variant: the contract of a technique, the recipe and the techniques."""
