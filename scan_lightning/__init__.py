"""SCAN (CVPR 2024) as a PyTorch Lightning experiment suite for open-vocabulary segmentation."""
