"""From footage to a dataset: clips are found in long videos, judged and captioned, in a JSON Lines manifest."""
