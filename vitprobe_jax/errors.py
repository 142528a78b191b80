class InputError(ValueError):
    """What a user gave cannot be used: a flag, a file, a folder.

    The message is one line for the user: what is wrong, where (the file or flag), and how to mend it. The commands print
    it and end with exit code 2; library callers may catch it as a ValueError.
    """
