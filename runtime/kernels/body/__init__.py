"""The language that kernel bodies are written in, and its derivative."""
