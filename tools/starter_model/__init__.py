"""How the starter model is made: pictograms in, a `StableDiffusionPipeline` folder out."""
