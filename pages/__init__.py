"""One thin script a page: title, guard, one call to the engine, render."""
