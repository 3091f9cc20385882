"""`make profile`: what an export holds, as a mapping to start from; and what a mapping's orders allow."""
