"""How the bundled model of English speech is made."""
