"""From a dataset on disk to clips in buckets: manifests, probing, frame selection and decoding."""
