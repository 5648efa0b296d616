"""Face detectors, one file a kind; `curation.face_detection` chooses between them."""
