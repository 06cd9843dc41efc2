"""Which model, at what accuracy, at what speed, on this hardware, and is the difference real?"""
