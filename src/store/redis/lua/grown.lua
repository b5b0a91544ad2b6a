append(4, 9007199254740991, gen)
return at .. chain
