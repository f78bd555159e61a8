"""Elastic audio-visual speech recognition with language models."""
