"""Control videos: from files beside the clips, or computed from the clips' frames."""
