"""Step-Audio-EditX as an engine."""
