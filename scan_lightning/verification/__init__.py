"""What ``scan-lightning verify`` compares: every stage of the network with reference tensors of a folder.

`reference` reads the folder, `ledger` keeps what was compared, `subject` builds the network from the folder's weights;
each other module compares one group of stages.
"""
