"""Tools for who works on cloudMe: what is generated from the programs' parsers. Not installed."""
