"""Networks: encoders, depth decoder, pose network."""
