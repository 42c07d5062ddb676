"""What files of atomic models say: PDB and mmCIF, and the assemblies that they describe."""
