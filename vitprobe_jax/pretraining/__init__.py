"""Images -> the weights of a small ViT, by the published recipes of DINO and MAE; the bundled backbones were made so."""
