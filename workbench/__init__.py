"""The app's shell: navigation, server, session, forms, charts; no torch."""
