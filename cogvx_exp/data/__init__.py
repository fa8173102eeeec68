"""From a folder of clips to training batches: manifest, video, buckets, cache, samples."""
