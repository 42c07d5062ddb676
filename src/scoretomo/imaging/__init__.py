"""Projection, Fourier transforms, masks, preprocessing of images and volumes."""
