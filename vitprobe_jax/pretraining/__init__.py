"""Images -> the weights of a small ViT, by the published recipes of DINO and MAE: what the bundled backbones were made with."""
