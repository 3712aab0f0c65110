"""Reads labels and images from files, and delivers batches to the devices."""
