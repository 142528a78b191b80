"""The geometry of an image on its way into a backbone; masks take the same way.

Images are uint8 RGB [H, W, 3] in 0..255; the backbone normalises them on the device.
"""
