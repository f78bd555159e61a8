"""Clips to train and measure on: manifests, corpora, augmentation, stores, batches."""
