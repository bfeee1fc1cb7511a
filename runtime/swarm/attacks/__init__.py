"""What attackers do to models, links and discovery."""
