"""What people and scripts touch: the command line, the live view, the demo.

The only place where click and rich are visible, where signals are handled and where text is printed. It knows the node
through its events and nothing of how they come about; the library never imports this package.
"""
