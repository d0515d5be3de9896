"""From files to rows and images: JSONL for training, label files and dataset cards for making it."""
