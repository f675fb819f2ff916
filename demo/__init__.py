"""The demo: documentation of the installed packages in, a small RoBERTa and a summary out."""
