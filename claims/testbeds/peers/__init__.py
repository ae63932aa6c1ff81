"""What a practitioner would fit in an afternoon, from libraries that are known for it.

`features.py` makes numbers of raw values without amodal's own simple features, so that a fault of
these does not pass unseen; the other files fit scikit-learn, scikit-survival, aeon and
scikit-image.
"""
