"""Code generators: each reads Nests (the torch backend also reads operator names) and knows no other backend."""
