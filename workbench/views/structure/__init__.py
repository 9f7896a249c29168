"""The page Structure: what each module holds and computes, a file for each view."""
