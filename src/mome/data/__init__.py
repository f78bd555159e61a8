"""Clips to train and measure on: manifests, corpora, augmentation, clips and features on disk, batches."""
