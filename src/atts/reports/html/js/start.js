startNavigation();
startList();
startFigures();
startKeys();
startReader();
