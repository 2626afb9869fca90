"""What `keramorph demo` shows: a real MRI slice, registered without training and by a network trained on the spot."""
