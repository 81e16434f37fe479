"""`node demo --mode isolated`: four owners who never meet, and the model that has all of them."""
