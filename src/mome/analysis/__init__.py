"""What a trained model does: its experts, its tokens, its attention, and what a rate costs and buys.

Each module measures one thing and returns :class:`~mome.analysis.findings.Findings`: a document, tables and figures.
"""
