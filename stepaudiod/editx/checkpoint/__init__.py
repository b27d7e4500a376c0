"""The files of a Step-Audio-EditX checkpoint and their tensors."""
