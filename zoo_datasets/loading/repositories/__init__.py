"""Dataset repositories as `load_zoo` reads them: where they are, what is asked of them, and their builders."""
