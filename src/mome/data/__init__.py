"""Clips to train and measure on: manifests, augmentation, stores, batches."""
