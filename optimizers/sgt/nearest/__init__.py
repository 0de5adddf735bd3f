"""The nearest winner: what won in exploration is read again for the most similar queries; nothing is trained."""
