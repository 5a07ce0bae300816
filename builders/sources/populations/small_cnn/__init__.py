"""The Small CNN Zoo: flat weights of TensorFlow in one array, a table of figures and a table of the layout."""
